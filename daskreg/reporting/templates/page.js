
"use strict";
for (const comparison of document.querySelectorAll(".comparison")) {
  const slider = comparison.querySelector("input");
  if (!slider) continue;
  const show = () => {
    for (const svg of comparison.querySelectorAll(".view svg")) {
      const at = svg.viewBox.baseVal.width * slider.value / 100;
      svg.querySelector(".shown").setAttribute("width", at);
      for (const end of ["x1", "x2"]) svg.querySelector(".cut").setAttribute(end, at);
    }
  };
  slider.addEventListener("input", show);
  for (const svg of comparison.querySelectorAll(".view svg")) {
    const follow = (event) => {
      if (event.type === "pointermove" && !event.buttons) return;
      const box = svg.getBoundingClientRect();
      slider.value = 100 * (event.clientX - box.left) / box.width;
      show();
    };
    svg.addEventListener("pointerdown", follow);
    svg.addEventListener("pointermove", follow);
  }
  show();
}
