// Package comfacade serves simulated Hyper-V hosts over COM, in this process: it registers a class object for
// WbemScripting.SWbemLocator, so that programs that use WMI's scripting interfaces, such as
// github.com/microsoft/wmi, reach the simulation without knowing it. It works on Windows and under Wine; on other
// systems Register returns an error.
//
// Names of servers are those of the hosts; "", "." and names that end in a dot mean what they do on Windows, the local
// computer being the first host. Values are converted as the scripting interfaces do: 64-bit integers and datetimes are
// strings, uint16 and uint32 are signed 32-bit integers, arrays are SAFEARRAYs of VARIANT
// [D: "Numbers", "Scripting API for WMI"; seen with microsoft/wmi].
package comfacade
