"""Is this loss right? Every check that a loss must pass, for the losses of the package and for anybody's."""
