//! Imports of folders drawn here into a database of their own.
