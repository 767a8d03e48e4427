"""Does the search find anything at equal size? These commands compare networks of the same parameters and FLOPs."""
