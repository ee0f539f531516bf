//! Directory handles: the only way the engine reaches files whose names come from outside.
//!
//! Owns opening below a directory without ever leaving it, and the small calls that the standard
//! library lacks: extended attributes of objects that cannot be opened, modes free of the umask.
//!
//! Invariants:
//! - **No symbolic link is followed**, in no component.
//! - **Nothing blocks on what it opens**: pipes and devices are refused, not waited for.
//!
//! Leaves to others: what the names mean (`tree`), and whose directories they are.
