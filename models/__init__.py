"""Networks and how they learn; imports neither pipeline (but its errors) nor stages."""
