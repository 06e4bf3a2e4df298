"""From a text to a trained model: optimizer, trainer, `train`, presets, cost."""
