//! began-record
