"""What finds: vector index, lexical index, hierarchy, fusion, packing of evidence."""
