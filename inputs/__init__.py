"""What people hand to Neural Bridge, read so that nothing they name can hang or fill the machine."""
