//! The command line of Maskline.

fn main() {}
