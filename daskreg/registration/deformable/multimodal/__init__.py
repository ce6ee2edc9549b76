"""Motions between different modalities that Gauss-Newton steps do not find.

far_motions         what is tried where steps do not align the images
displacement_search displacements that are looked for among many, confirmed by halves of the image
self_similarity     descriptors of structure that do not depend on the modality
small_steps         many small steps along the gradient of the metric
"""
