"""The town: a procedural driving world that is the library's embedded data set."""
