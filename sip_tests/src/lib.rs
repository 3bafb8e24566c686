//! Phones, a simulated network and the tests that drive Maskline from outside.
