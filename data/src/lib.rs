//! began-data
