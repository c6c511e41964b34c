package wbem

// Of returns the WMI service of a *hvsim.Host. Package hvsim sets it, so that
// transports in packages of their own (comfacade) reach the service without a
// method that users of a Host would see.
var Of func(host any) Server
