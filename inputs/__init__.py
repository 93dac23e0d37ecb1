"""What all rooms share: files that people name, read so that none hangs or fills the machine; quantities in words."""
