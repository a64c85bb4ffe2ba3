// Package hawkbit is a stand-in for an Eclipse hawkBit update server, for tests:
// the interface of devices (DDI), and as much of the Management API as an
// operator needs to set up, assign, cancel and look.
//
// It behaves as a real server was seen to, quirks included: what it must do is
// in testdata, as requests and answers of a real one, and a test replays them.
// It keeps everything in memory, and takes time and random numbers from its
// maker.
package hawkbit
