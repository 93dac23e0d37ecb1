"""LoRA adapters: trained on a user's text, judged, served."""
