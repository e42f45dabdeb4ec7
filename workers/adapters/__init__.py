"""LoRA adapters on a worker: copies of their files, their places in the engine, and what is declared for its pool."""
