//! Questions over a log in memory.
