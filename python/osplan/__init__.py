"""The Open-Sora-Plan trainer that Stagewright bundles: models, objectives, data and the training loop."""
