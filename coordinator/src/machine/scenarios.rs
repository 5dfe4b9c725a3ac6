//! Single histories, told as claims.
