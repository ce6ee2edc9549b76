"""What was estimated or written, and how well: fits, figures and report pages.

fit     `Fit`, the base class of PairFit, StackFit and CloudFit
plots   figures of fits and volumes, drawn with matplotlib
page    `report`, which writes one HTML page and the same facts as JSON
"""
