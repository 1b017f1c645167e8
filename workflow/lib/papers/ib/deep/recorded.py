"""What a training of a deep net records, by the names of its metrics."""

ITERATION_METRICS = ("train_loss", "gradient_norm", "step_size", "step_length")
EPOCH_METRICS = ("test_accuracy", "test_loss", "attention")
