"""Many servers behind one door: HAProxy carries the bytes, an agent beside it decides who gets them."""
