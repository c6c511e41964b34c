// Package comfacade serves simulated Hyper-V hosts over COM, in this process. It registers a class object for
// WbemScripting.SWbemLocator, so that programs that use WMI's scripting interfaces, such as github.com/microsoft/wmi, reach the
// simulation without knowing it. It works on Windows and under Wine; on other systems Register returns an error.
//
// Names of servers are those of the hosts. "", "." and names that end in a dot have the same meaning as on Windows; the local
// computer is the first host. Values are converted like in the scripting interfaces: 64-bit integers and datetimes are strings,
// uint16 and uint32 are signed 32-bit integers, arrays are SAFEARRAYs of VARIANT [D: "Numbers", "Scripting API for WMI"; seen
// with microsoft/wmi].
//
// A program that uses it must run with GODEBUG=gcshrinkstackoff=1, otherwise Register refuses: go-ole passes pointers into the
// stack of its goroutine, which returns into Go in the middle of the call, and the garbage collector would move the stack
// meanwhile. Real COM servers are not written in Go, and need nothing of the kind.
package comfacade
