//! Layouts of the kernel tables, and the verdict: decide().
