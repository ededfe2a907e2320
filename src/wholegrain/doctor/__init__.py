"""What ruins runs, found before the first step; one file a family of checks, :func:`wholegrain.doctor.doctor.examine` runs all."""
