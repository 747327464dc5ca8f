"""Traces as versioned data sets of the library tensorflow-datasets, without TensorFlow."""
