// Package hawkbit makes a device one of an Eclipse hawkBit server: it speaks the
// server's Direct Device Integration (DDI) and offers what the server assigns.
//
// The server decides when, never what. A bundle is an offer only once its signed
// head was read and verified; sizes and names that the server tells bound
// nothing. What became of an action is read off the device each time, and is
// durable before it is reported, so that a report is finished after a power cut
// and never made into a second installation.
//
// Decisions are pure functions, of the state that is kept, of what the server
// says and of facts of the device: judge, decide and chooseParts. A Source
// carries them out.
package hawkbit
