//! Embedding models: the local static model and providers through rig, behind one trait.
