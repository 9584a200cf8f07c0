//! Stage and BatchStage, and the runner that owns reading, claiming, acking, retrying and stopping.
