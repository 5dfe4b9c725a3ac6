//! began-tests
