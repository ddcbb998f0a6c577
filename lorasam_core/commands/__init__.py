"""The commands of `lorasam`: options in, the work of other modules, what people read out."""
