//! What the fuzz programs share.

#[path = "../it/fuzz/drive.rs"]
pub mod drive;
pub mod mutate;
pub mod words;
