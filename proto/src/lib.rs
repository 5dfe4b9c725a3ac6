//! began-proto
