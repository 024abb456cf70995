"""Procedural micrographs with known ground truth, and questions and answers about them."""
