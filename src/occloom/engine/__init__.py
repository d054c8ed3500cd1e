"""Training, evaluation and everything that a run is made of; the only importer of Lightning Fabric."""
