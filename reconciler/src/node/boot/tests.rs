//! The steps on a folder that looks like a machine, with tools that do in the folder what the real ones do on a disk.
//! (The real loaders boot in the package `tests/boot`.)
