// simdgroup_matrix
