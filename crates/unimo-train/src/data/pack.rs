//! `unimo data pack`.
