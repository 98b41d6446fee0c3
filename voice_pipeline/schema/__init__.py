"""Types that cross stages. Ground floor: imports nothing else of the project."""
