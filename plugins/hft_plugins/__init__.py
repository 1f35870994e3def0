"""The plugins that come with hft. They reach the core by entry points, as a stranger's do; one subpackage a seam."""
