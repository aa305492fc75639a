mod questions;
mod salvaged;
