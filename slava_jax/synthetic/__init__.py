"""The drawn world: micrographs whose ground truth is known, and the words for it."""
