// integer
