"""Fine-tuning tasks and pretraining on top of the training loop."""
