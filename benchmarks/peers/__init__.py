"""What Tandem is compared with: other ways to build the same thing, run on the same data in the same report."""
