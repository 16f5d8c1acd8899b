"""What must hold in every explored schedule."""
