// pack
