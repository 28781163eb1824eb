"""The tests, laid out like the product; a package, so that starting pytest in any way puts the checkout on the path."""
