"""What we measure of ourselves: hidden states, the GPU exporter, alert times. No part of measuring a user's server."""
