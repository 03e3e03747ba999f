"""What is learnt for a model and kept in a folder: prompt pairs with their gates, LoRA adapters; card and hub."""
