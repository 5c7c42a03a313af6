//! Single flows, told by the tags that the client gets.
